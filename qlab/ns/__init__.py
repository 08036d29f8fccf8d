"""Face of `torch.ao.ns`, the numeric suite: a model and its quantized form, tensor by tensor.

`qlab.ns._numeric_suite` for eager models, `qlab.ns._numeric_suite_fx` for graphs. See
`qlab.analysis.suite`.
"""
