"""How bytes are budgeted and handed from thread to thread."""
