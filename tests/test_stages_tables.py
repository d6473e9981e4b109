"""Results as plain text."""

from r1jax.stages.tables import glance, table


def test_table_has_a_line_a_task():
    text = table({"base": {"a:test": {"n": 3, "pass@1": 0.5, "mean_tokens": 9.25}}, "zero": {"a:test": {"n": 3}}})
    assert [line.split() for line in text.splitlines() if "-" * 9 not in line] == [
        ["stage", "task", "n", "pass@1", "mean_tokens"],
        ["base", "a:test", "3", "50.0%", "9.2"],
        ["zero", "a:test", "3", "-", "-"],
    ]


def test_a_pipeline_at_a_glance():
    figures = {"n": 500, "pass@1": 0.4375, "maj@16": 0.5, "format": 1.0, "mean_tokens": 31.15}
    talk = {"n": 9, "pass@1": None, "maj@16": None, "format": 0.0, "mean_tokens": 8.0}
    text = glance(
        {
            "base": {"arithmetic:test": figures},
            "cold_data": {"arithmetic": {"n": 6400, "kept": 987, "dropped/form": 5413}, "general": {"n": 7, "kept": 7}},
            "helpful": {"replies:helpful:test": {"n": 1000, "accuracy": 0.981}},
            "general": {"arithmetic:test": figures | {"pass@1": 1.0}, "general_greeting:test": talk},
        }
    )
    assert text.splitlines() == [
        "            arithmetic        general_greeting",
        "stage        pass@1  tokens    tokens",
        "-" * 46,
        "base          43.8%    31.1         -",
        "cold_data   987 kept of 6,400 arithmetic; 7 kept of 7 general",
        "helpful     98.1% of 1,000 replies:helpful:test ranked rightly",
        "general      100.0%    31.1       8.0",
    ]


def test_a_pipeline_of_the_whole_recipe_stays_legible():
    """Sixteen stages, five tasks: a line each, of no more than 120 characters."""
    tasks = ("arithmetic", "general_advice", "general_facts", "general_greeting", "general_translation")
    row = {f"{task}:test": {"n": 100, "pass@1": 0.5, "mean_tokens": 20.0} for task in tasks}
    lines = glance({f"stage_{i:07}": row for i in range(16)}).splitlines()
    assert len(lines) == 3 + 16 and max(map(len, lines)) <= 120
