"""The embedded thorax phantom: one synthetic patient's anatomy in 3-D, cut into axial slices of HU."""
