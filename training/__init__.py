"""Training of the scoring back-ends; not part of the installed package."""
