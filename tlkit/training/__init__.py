"""The loop, optimizer and schedule, checkpoints, seeding."""
