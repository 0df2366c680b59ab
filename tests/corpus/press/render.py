import jinja2
import pydantic
import yaml

from press.faults import BadManuscript

TEMPLATES = {
    "page": "<h1>{{ page.title }}</h1>",
    "list": "{% for one in pages %}{{ one.missing.deeper }}{% endfor %}",
    "broken": "{% for x in %}",
    "sum": "{{ 1 / count }}",
}
env = jinja2.Environment(
    loader=jinja2.DictLoader(TEMPLATES), undefined=jinja2.StrictUndefined, autoescape=True
)


class Article(pydantic.BaseModel):
    title: str
    words: int


def render(name, **values):
    return env.get_template(name).render(**values)


def front_page(pages):
    return render("page", page=pages[0])


def article(data):
    return Article(**data)


def meta(text):
    return yaml.safe_load(text)["title"]


def manuscript(text):
    try:
        title = meta(text)
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise BadManuscript(str(error)) from error
    if len(title) > 40:
        raise BadManuscript(f"title too long: {len(title)} characters")
    if title.isupper():
        raise BadManuscript(f"do not shout: {title!r}")
    return title


def headline(articles):
    return max(articles, key=lambda one: one["rank"])["title"]


def index(articles):
    return {one["slug"]: sum(part["words"] for part in one["parts"]) for one in articles}
