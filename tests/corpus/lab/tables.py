import django
from django.conf import settings

if not settings.configured:
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=[],
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    )
    django.setup()

from django.db import connection, models


class Sample(models.Model):
    code = models.CharField(max_length=40, unique=True)
    weight = models.IntegerField()

    class Meta:
        app_label = "lab"


def prepare():
    if "lab_sample" not in connection.introspection.table_names():
        with connection.schema_editor() as editor:
            editor.create_model(Sample)


def record(code, weight):
    return Sample.objects.create(code=code, weight=weight)


def reweigh(code, weight):
    sample = Sample.objects.get(code=code)
    sample.weight = weight
    sample.save()


def heavier(field, weight):
    return list(Sample.objects.filter(**{f"{field}__gt": weight}))


def by_weight(weight):
    return Sample.objects.get(weight=weight)
