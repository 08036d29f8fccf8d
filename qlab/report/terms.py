"""What each number of a report means: unit, direction, formula."""

#: ``(name in Report.output or a table, title, unit, definition, formula)``; x float, y quantized.
NUMBERS: tuple[tuple[str, str, str, str, str], ...] = (
    (
        "sqnr",
        "SQNR",
        "dB",
        "Signal-to-quantization-noise ratio over all samples together; higher is better, ∞ where "
        "nothing differs. 6 dB are one bit.",
        "10·log₁₀(Σx² / Σ(x − y)²)",
    ),
    (
        "nmse",
        "NMSE",
        "",
        "Normalised mean squared error; lower is better.",
        "Σ(x − y)² / Σx²",
    ),
    (
        "cosine",
        "Cosine",
        "",
        "Cosine of the angle between float and quantized values; 1 is best.",
        "Σxy / √(Σx² · Σy²)",
    ),
    (
        "max_abs",
        "Largest error",
        "",
        "In the tensor's own unit; lower is better.",
        "max |x − y|",
    ),
    (
        "accuracy",
        "Accuracy",
        "%",
        "Share of samples whose largest logit is the label; higher is better.",
        "100 · (right answers) / (samples)",
    ),
    (
        "float_accuracy",
        "Float accuracy",
        "%",
        "That of the float network.",
        "100 · (right answers) / (samples)",
    ),
    (
        "top1_agreement",
        "Top-1 agreement",
        "%",
        "Share of samples on which float and quantized network choose the same class; higher is "
        "better. It needs no labels.",
        "100 · (same answers) / (samples)",
    ),
)
#: Words of the tables that are no metric of the output.
WORDS: tuple[tuple[str, str], ...] = (
    ("Local", "The layer fed the float network's values: its own error."),
    ("Accumulated", "The layer inside the quantized network: earlier layers' errors, too."),
    (
        "Ideal",
        "SQNR that the best quantizer of the output's bit width reaches on the layer's output. "
        "What lies below it is avoidable.",
    ),
    (
        "RMSE/scale",
        "√(mean (x − y)²) / s with s the output's scale; an ideal uniform quantizer gives "
        "1/√12 ≈ 0.289.",
    ),
    ("Clipped", "Share of the output's float values beyond the quantizer's range [%]."),
    (
        "Integer share",
        "Operators that compute on integers, of all that compute. The others are simulated (float "
        "arithmetic on quantized values) or float.",
    ),
    (
        "Gain",
        "Change of the layer's output SQNR under the remedy [dB], measured on a small fixed sample "
        "of the calibration data.",
    ),
)
