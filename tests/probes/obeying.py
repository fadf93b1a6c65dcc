"""A process for `client.Worker` that is no engine: it answers, errs, hangs or dies as it is told to."""

import sys
import time

from sage_eval.probes.orders import commands, private_stdout, say

if __name__ == "__main__":
    replies, orders = private_stdout(), commands()
    say(replies, {"opened": orders.get()})
    while (command := orders.get())["do"] != "close":
        match command["do"]:
            case "hang":
                time.sleep(600)
            case "die":
                sys.exit("out of memory")
            case "err":
                say(replies, {"error": "no such thing", "type": "DataError"})
            case _:
                say(replies, command)
