"""What a twin mirrors of its scanner: state, log, physics of tube and images, quality assurance, maintenance, what-if."""
