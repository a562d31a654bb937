"""Many runs: which there are, what they will take, where they execute, and what is kept of them."""
