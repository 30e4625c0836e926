"""What a policy does to a fleet in trouble, shown in virtual time by the code that ships."""
