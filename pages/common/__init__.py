"""What the pages share: state, jobs, words, colours and the frame around each page."""
