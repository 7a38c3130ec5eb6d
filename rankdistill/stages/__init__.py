"""What each output of the store depends on, a file for each stage; `pipeline` has the order."""
