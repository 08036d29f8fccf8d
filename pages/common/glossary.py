"""What each word and number means: one sentence, unit, direction, formula. Shown on hover."""

#: Markdown, by term; code spans hold formulas.
TERMS: dict[str, str] = {
    "accuracy": "Share of evaluation images whose largest logit is the right digit [%], higher is "
    "better. Left the float model, right the quantized one.",
    "top1 agreement": "Share of evaluation images on which float and quantized model choose the "
    "same class [%], higher is better. It needs no labels.",
    "sqnr": "Signal-to-quantization-noise ratio [dB], higher is better: "
    "`10·log10(Σx² / Σ(x − y)²)` with x the float and y the quantized value, over all samples. "
    "6 dB are one bit; 20 dB mean an error of a tenth of the signal.",
    "nmse": "Normalised mean squared error, lower is better: `Σ(x − y)² / Σx²`.",
    "cosine": "Cosine between float and quantized tensor, 1 is best: `Σxy / √(Σx² · Σy²)`.",
    "max abs": "Largest absolute error, in the tensor's own unit, lower is better: `max |x − y|`.",
    "local": "Error of a layer on its own: it is fed the float network's values, only the layer "
    "itself is quantized.",
    "accumulated": "Error of a layer inside the quantized network: it also carries what all "
    "earlier layers did to its input.",
    "ideal": "The bound: what an ideal quantizer of that bit width reaches on the layer's float "
    "output. The part of the gap below it is avoidable.",
    "size": "Bytes of all parameters: float32 left; right, codes at their own bit width plus "
    "scales, zero points, and whatever stays in float; lower is better.",
    "integer": "Operators that compute on integers from input to output, of all operators that "
    "compute, more are better. The others run in float: simulated (quantized values, float "
    "arithmetic) or kept.",
    "scale": "Real units per code: neighbouring codes stand for numbers that lie one scale apart.",
    "zero point": "The code that stands for 0.0 exactly. 0 for symmetric signed codes.",
    "bits": "Width of one code. n bits give 2ⁿ codes; each bit less costs about 6 dB.",
    "scheme": "Symmetric: the range is centred on 0 and the zero point is fixed. Affine: the zero "
    "point moves, so that a one-sided range uses all codes.",
    "signs": "Signed codes run from −2ⁿ⁻¹ to 2ⁿ⁻¹ − 1, unsigned ones from 0 to 2ⁿ − 1.",
    "granularity": "Which elements share one scale: the whole tensor, or each channel its own.",
    "one scale": "Integer kernels read an activation with one scale for the whole tensor.",
    "observer": "The rule that turns what calibration saw into a range: min-max takes all of it, "
    "percentile cuts the tails, MSE and entropy weigh clipping against rounding.",
    "percentile": "How much of the values the range keeps [%]: the rest is clipped, half on "
    "each side.",
    "range": "Smallest and largest real number that a code stands for: `(q_min − z)·s` and "
    "`(q_max − z)·s`, in the tensor's own unit. What lies outside is clipped.",
    "clip threshold": "Magnitude at which values are clipped, as a share of the largest one "
    "[%]: what lies above moves to the end of the range.",
    "outliers": "Values far away from the others. A few of them, in one layer or one channel, are "
    "the usual reason for a range that is too wide.",
    "rms": "Root mean square of a tensor: `√(Σx² / n)`, its usual magnitude.",
    "rounding share": "Part of the squared error that values inside the range cause, which move to "
    "the nearest level: at most half a scale each.",
    "clipping share": "Part of the squared error that values outside the range cause, which move "
    "to its end. Rounding and clipping together are 100 %.",
    "rounding of one": "`x̂ − x` of a value inside the range of codes: at most half a scale.",
    "clipping of one": "`x̂ − x` of a value outside the range of codes: it moves to the end.",
    "clipped share": "Share of the values that lie outside the range [%], lower is better.",
    "rmse over scale": "Root of the mean squared error, in units of the scale: "
    "`√(Σ(x − y)² / n) / s`. An ideal uniform quantizer gives `1/√12 ≈ 0.289`.",
    "codes used": "Codes that at least one value takes, of all there are, over all channels; more "
    "are better.",
    "output sqnr": "SQNR of this layer's output when the layer alone is quantized this way, "
    "measured on a small fixed sample of the calibration data [dB], higher is better.",
    "configured sqnr": "The same number as the configuration has it, before the knobs were moved.",
    "worst": "The five layers with the lowest local SQNR, each with the cause that the engine "
    "found and, where one helps, a remedy with the gain in output SQNR that it measured.",
    "calibration images": "How many images the float model sees, once, to learn the range of every "
    "tensor. Another number is a pass of its own; *Add* goes on from what was seen.",
    "more images": "Only the new ones are run: what they show is merged with what was seen.",
    "observed tensors": "Layers whose output was described: count, extrema, moments, histogram.",
    "not finite": "Values that are NaN or infinite. They have no place in a range and are left "
    "out; NaN, and infinity that a layer made of finite numbers, end calibration with a message.",
    "settled": "Whether more data would still change the ranges: half of the batches, over all "
    "choices of that half, would have given the same error within 0.5 dB.",
    "range growth": "How much wider the range is than the mean range of half of the batches, in "
    "steps of 8 bits, lower is better.",
    "range change": "By how many dB the tensor's SQNR would differ with the mean range of half of "
    "the batches, lower is better; above 0.5 dB the range still moves.",
    "order change": "How much the SQNR of a moving-average range depends on the order of the "
    "batches [dB], lower is better: one standard deviation wider against one narrower.",
    "trend": "Whether batches grow (rising) or shrink (falling) with their place in the data, by "
    "the Mann-Kendall test; needs 8 batches.",
    "more samples": "About how many more images would settle it; ∞ where no reasonable number "
    "would, n/a where that cannot be told.",
    "range curve": "Lines: smallest and largest value so far, in the order seen. Band: mean of "
    "them over all choices of so many batches, one standard deviation to each side.",
    "minimum": "Smallest value that was seen, in the tensor's own unit.",
    "maximum": "Largest value that was seen, in the tensor's own unit.",
    "mean": "Mean of all values: `Σx / n`.",
    "std": "Standard deviation of all values: `√(Σ(x − mean)² / n)`.",
    "zeros": "Share of the values that are exactly 0 [%]. After a ReLU often half; they cost "
    "nothing, as 0 has a code of its own.",
    "tail": "Largest magnitude over the one within which 99.8 % of the values lie. 1× is no "
    "outlier; 4× costs a min-max range two bits.",
    "causes": "What the engine found in this layer as it is configured, what helps most first. "
    "Knobs that are not applied are not in it.",
    "cause": "What is wrong, and with which of the layer's tensors: its weight, its output "
    "(activation) or its input.",
    "threshold": "The measured number, and from which value on the engine calls it a cause.",
    "automatic repair": "Measures the network, looks for the causes of its layers' errors, and "
    "tries what fits them, the cheapest first. What brings the goal nearer is kept. Remedies are "
    "chosen by what they do on the evaluation data.",
    "goal": "The least that the quantized network must reach. The float network is what it can "
    "hope for.",
    "time to look": "After it nothing new is begun, and the best until then is offered. Measuring "
    "and cheap remedies take seconds, learning the rounding of weights takes most of the time.",
    "keep the size": "Without it, layers that cost the network most may stay in float as a last "
    "resort: as few as reach the goal. They take four times the bytes.",
    "fine-tuning": "Quantization-aware training (QAT): the network learns on while its weights and "
    "activations are rounded, so that it learns to live with the rounding. Without labels it "
    "learns to answer as the float network does.",
    "training steps": "How often the weights are moved, by one batch of calibration data each. "
    "More take longer, and seldom hurt: the state that is best on held-out data is what you get.",
    "gain": "Change of this layer's output SQNR under the remedy [dB], higher is better: measured "
    "with the layer alone on a small fixed sample of the calibration data.",
    "channel sqnr": "SQNR of one channel of the layer's output [dB], higher is better: the layer "
    "alone is quantized, as configured, and fed the float network's values: "
    "`10·log10(Σx² / Σ(x − y)²)` over all evaluation samples.",
    "tracing": "To turn a model into a graph, its forward is run once with symbols for values. "
    "Where what it does depends on the values themselves, that cannot be.",
    "layers": "Operators of the traced network, after batch norms and activations were folded into "
    "the layers before them.",
    "parameters": "Numbers that training found: weights and biases.",
    "float32 size": "Bytes of all parameters, and of the statistics that norms keep.",
    "can be": "Layers that have an integer or simulated form. The others pass codes on, or stay in "
    "float.",
    "stays float": "Layers that the configuration leaves as they were, each with the reason.",
    "network picture": "Marks are layers, lines the data between them. Squares compute on "
    "integers, diamonds in float arithmetic on quantized values, open circles in float.",
    "runs as": "integer: codes in, codes out. simulated: float arithmetic on quantized numbers. "
    "shared: moves codes as they are. float: as in the original model.",
    "covered dtypes": "Codes it computes on, in integers; *simulated* means float arithmetic on "
    "quantized values. For an observer: what it finds scales for.",
    "covered devices": "Where it runs. *any*: wherever PyTorch does; a named kernel is "
    "a faster one.",
    "simulation": "Fake quantization: float arithmetic on values that were rounded to what codes "
    "stand for, as in quantization-aware training. The integer network is what runs; where the two "
    "disagree, accuracies measured on the simulation are not those of the product.",
    "float and simulation": "SQNR of the simulated layer, the float layer being the signal [dB], "
    "higher is better.",
    "float and integers": "SQNR of the integer layer, the float layer being the signal [dB], "
    "higher is better.",
    "simulation and integers": "SQNR of the integer layer, the simulated one being the signal "
    "[dB], higher is better; ∞ where they are equal.",
    "exact codes": "Share of output codes that are equal in simulation and integers [%], higher "
    "is better.",
    "off by": "How many output codes differ between simulation and integers by so many steps; a "
    "step is one code, worth one scale. Lower is better.",
    "largest difference": "Largest difference between a simulated and an integer code, in steps, "
    "lower is better.",
    "ties": "How many of the differing codes lie in the middle between two codes, where the order "
    "of rounding decides: simulation rounds before it adds the zero point, quantization after.",
    "onnx": "The ONNX file is run in onnxruntime on the calibration data, and the codes of every "
    "tensor that it quantizes are compared with those of qlab's integer model.",
    "onnx exact": "Share of a tensor's codes that are equal in onnxruntime and qlab [%], higher is "
    "better.",
    "onnx off by": "How many codes of a tensor differ between onnxruntime and qlab by so many "
    "steps; a step is one code, worth one scale. Lower is better.",
    "onnx steps": "Largest difference of a code between onnxruntime and qlab, each operator being "
    "fed qlab's own codes [steps], lower is better; 1 is what another order of rounding makes.",
    "onnx largest": "Largest difference between a code of onnxruntime and one of qlab, in steps, "
    "lower is better.",
    "onnx outputs": "Share of the network's outputs that differ by at most one step between "
    "onnxruntime and qlab [%], higher is better.",
    "onnx top1": "Share of samples on which onnxruntime and qlab choose the same class [%], higher "
    "is better.",
    "onnx sqnr": "SQNR of onnxruntime's network output, qlab's integer model being the signal "
    "[dB], higher is better.",
    "latency": "Time of one call [ms], lower is better: the median of runs of both networks in "
    "turn, after a warm-up.",
    "latency ratio": "Median of float time over quantized time of neighbouring runs, no unit; "
    "above 1 the quantized network was the faster one here.",
    "layer size": "Bytes of the layer's parameters: Σ values × bits / 8, a weight's codes at their "
    "own bit width, bias, scales and zero points as stored; lower is better.",
    "candidates": "Configurations that every layer is tried under, one layer at a time.",
    "on alone": "Only this layer is quantized, as it would be deployed, and all others are float: "
    "what it costs the network's output by itself.",
    "off alone": "Everything is quantized and this layer alone stays in float: what the network's "
    "output wins by it.",
    "sensitivity estimate": "What the layer costs *on alone*, to first order: its own error times "
    "how strongly the output follows it, for all layers in two backward passes. As output SQNR "
    "[dB], higher is better.",
    "rank correlation": "Spearman's coefficient between estimated and measured error over all "
    "cells, higher is better: at 1 both put the layers in the same order.",
    "budget": "The most that the network may take, as a share of what the configuration takes that "
    "was in force when you searched [%], lower is smaller.",
    "bit operations": "Multiplications of one image × bits of the weight × bits of the activation, "
    "over all layers, lower is better. Size: bytes of the converted model, lower is better.",
    "pareto": "Configurations of which none is both smaller and better than another. Hollow: "
    "predicted. Filled: measured. Click a point to make it the configuration in force.",
    "predicted": "The predicted error of a configuration is the sum of what each layer costs "
    "alone, so errors that meet in one place are not seen. On the dashed line prediction and "
    "measurement are equal; the rank correlation is 1 where they order the points alike.",
    "quantize": "`q = clamp(round(x / s) + z, q_min, q_max)`",
    "dequantize": "`x̂ = (q − z) · s`",
    "requantize": "The real result as a code of the output's scale: "
    "`clamp(rint(y · (1/s_y) + z_y))`, each operation rounded to float32.",
    "accumulator": "Sum of the products `(q_x − z_x)·(q_w − z_w)` in a 32-bit integer: exact, "
    "nothing is rounded in it.",
    "product": "One term of the accumulator: code of the input minus its zero point, times code of "
    "the weight minus its own. An exact integer; times `s_x·s_w` it stands for a real number.",
    "float input": "The layer's input as the float network has it, in its own unit.",
    "float weight": "The layer's weight in float, before it becomes a code.",
    "terms": "How many products have been added. The rest of the sum is dotted.",
    "float layer": "What the float layer puts out for the same inputs.",
    "int16": "A 16-bit integer holds −32,768 to 32,767; a sum beyond is set to the nearer end.",
    "saturation": "Sums of two products that 16 bits cannot hold and therefore clamp, of all such "
    "pairs; lower is better.",
    "reduce_range": "Uses half the codes of the input, such as 0 to 127 instead of 0 to 255, over "
    "the same range: the scale doubles, the error with it.",
    "group": "Neighbouring weights of one channel that share a scale.",
    "scale bytes": "Bytes of the scales: 4 each (float32), and 4 for each zero point that is "
    "not 0; lower is better.",
    "stored bytes": "Bytes of packed codes, scales and zero points together; lower is better.",
    "bits per value": "Bits of codes, scales and zero points over the number of values; lower is "
    "better.",
    "format": "Data type of the codes: integers of 2 to 8 bits, or float8 with 4 or 5 bits of "
    "exponent. The range is the one of least squared error.",
    "code": "The integer that is stored; of float8 the byte read as a number from 0 to 255.",
    "bit pattern": "The code in binary. Signed integers are in two's complement: the first bit is "
    "the sign. float8: sign, exponent, mantissa.",
    "relative step": "Distance to the next level: in real units, or as a share of the value "
    "(relative). Half of it is the largest rounding error.",
    "levels from to": "The smallest positive and the largest number that the format expresses when "
    "its range covers the tensor.",
    "fold factor": "γ / √(σ² + ε): what the batch norm multiplies the channel by.",
    "fold difference": "Largest absolute difference between convolution and batch norm in turn and "
    "the folded convolution, in the output's unit; lower is better.",
    "fold output": "Largest absolute output, to compare the difference with.",
    "clamp": "ReLU sets negative numbers to 0; ReLU6 also sets numbers above 6 to 6.",
    "activation sqnr": "SQNR of what the activation leaves [dB], higher is better; its float "
    "result is the signal.",
    "norm group": "Which of the sets of numbers that share a mean and a variance is shown.",
    "norm offset": "Added to every input number. The norm takes it away again, but the input's "
    "scale had to cover 0 and the offset.",
    "norm number": "The number whose way through the norm is written out.",
    "norm mean": "Mean of the numbers that the codes stand for; of a batch norm the running mean.",
    "norm variance": "Mean squared distance from the mean; of a batch norm the running variance.",
    "norm sqnr": "SQNR of these outputs, the float layer's being the signal [dB], higher is "
    "better.",
    "folds": "Whether the norm's numbers became part of the weights before it.",
    "stays a step": "Norms that read codes and write codes, with a scale of their own.",
}


def define(term: str) -> str:
    """The definition of a term, for a widget's `help`.

    Raises:
        KeyError: the term is not in the glossary, which is a mistake in the page.
    """
    return TERMS[term]
