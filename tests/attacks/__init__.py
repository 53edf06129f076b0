"""Attacks: what somebody does on purpose, and what must not come of it.

Every module here is one attacker. To add an attack, add a row to its table; each row is run, and each run ends with the
same three questions:

1. Is the **canary** (canary.py: a private key outside of every directory of slm) as it was: its bytes, its mode, its
   time of change, nothing beside it? And did none of its bytes come out?
2. Is there a **sentence** on stderr that says what happened, and not a traceback?
3. Is the **exit code** the one that the contract has for it (docs/commands.md)?

Who attacks:

- test_hub_answers.py: a Hub, a mirror, a proxy, a captive portal. It answers everything that HTTP and JSON can carry.
- test_links.py: a program of the same user that plants links where slm writes and deletes: the Hub's cache, the
  directory of weights, the KV states.
- test_index_wheels.py: a package index whose wheels are not what the catalog states.
- test_records.py: a program that rewrites slm's own records, so that `slm rm` would delete for it.
- test_wrong_types.py: values of every wrong type in `config.toml`, `models.toml` and `sessions.db`.

Never name a real file of the machine in an attack: code that fails it would do what the attacker wants. The canary, or a
path that does not exist.

They run in this process, through `run_cli`, over a Hub on the loopback (hub_server.py): some hundred attacks in seconds.
A whole process is started only where the attack is on one. Nothing here sleeps, and nothing is asked of the network.
"""
