"""The vocabulary that all other parts share: events, their fold into rows, keys, columns, the ledger of events.

No Celery, no SQLAlchemy, no files. Pure, except for what reads the clock (`time.now`), numbers deliveries
(`keys.new_token`) and takes part in forks (`forking`).
"""
