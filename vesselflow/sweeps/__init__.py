"""What is to be done, without Ray: plan, capacity, book, policy, execution of one run, outcome."""
