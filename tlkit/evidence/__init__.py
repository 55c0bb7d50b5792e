"""What several runs say together: the comparison and its report, the learning curve."""
