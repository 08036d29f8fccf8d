"""Write the table of models into README.md: `python -m sample_models.readme`."""

from pathlib import Path

from sample_models import load, names

README_FILE = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


def table() -> str:
    """The models as a Markdown table, from the catalog and `weights/metadata.json`."""
    lines = [
        "| name | parameters | float test accuracy | what it teaches about quantization |",
        "|---|---:|---:|---|",
    ]
    for name in names():
        sample = load(name)
        parameters = sum(parameter.numel() for parameter in sample.model.parameters())
        accuracy = "untrained" if sample.accuracy is None else f"{sample.accuracy:.1f} %"
        lines.append(f"| `{name}` | {parameters:,} | {accuracy} | {sample.teaches} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Replace what stands between the two marks."""
    before, rest = README_FILE.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    README_FILE.write_text(before + BEGIN + table() + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
