"""Does a prompt get the same answer alone, in a batch, in another order, in chunks and after a cached prefix?"""
