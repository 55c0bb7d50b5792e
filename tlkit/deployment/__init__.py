"""What is done with a trained model: an assembler for each entry point."""
