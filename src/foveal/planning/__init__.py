"""What follows from the data and the machine: the audit, the plan and the splits."""
