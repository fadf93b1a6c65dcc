"""Does a prompt get the same answer however it is served?"""
