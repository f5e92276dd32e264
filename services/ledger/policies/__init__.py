"""What work is worth: reward policies, pure and versioned. `docs/rewards.md` says in words what they compute."""
