"""Is a running SGLang server fine? Everything that can be asked of it in five minutes, judged.

It puts instruments together (determinism, serving, retrieval) and owns none: `plan` is what is asked, `record` what is
found, `ask` finds it, `judge` says what it means, `view` shows it.
"""
