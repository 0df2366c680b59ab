"""failbetter in Celery's workers. `failbetter.celery.work` is what they load to run jobs."""
