"""`sage-eval probe logits`: full next-token distributions of several arms at sampled positions, and greedy texts.

plan → tap (in the scheduler process) → chunks → reduce → record → table
"""
