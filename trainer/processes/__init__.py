"""The processes of one job: how they meet, what they tell each other, and what they must agree on."""
