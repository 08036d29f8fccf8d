"""What the Learn pages show, one idea a module: a sentence, a figure that moves, the numbers."""
