"""How far are the next-token distributions of the whole vocabulary, and greedy texts, from the baseline's?"""
