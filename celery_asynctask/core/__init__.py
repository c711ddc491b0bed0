"""The vocabulary that all others share: events, their fold into rows, keys, the accounts of what was written. Pure:
no Celery, no SQLAlchemy, no files."""
