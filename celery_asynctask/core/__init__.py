"""The vocabulary that all others share: events, their fold into rows, keys, the accounts of what was written.

No Celery, no SQLAlchemy, no files. Pure, but for what reads the clock (`time.now`), numbers deliveries (`keys.new_run`)
and takes part in forks (`forking`).
"""
