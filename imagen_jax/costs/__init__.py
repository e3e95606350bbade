"""What a compiled program costs: work, bytes, collectives, and what chips can do."""
