"""A package that extends nndiff: one module per extension point, found by the entry points of `ENTRY_POINTS`."""

ENTRY_POINTS = {
    "nndiff.method": {"example": "nndiff_example.method:EXAMPLE"},
    "nndiff.network": {"plain": "nndiff_example.family:PlainSpec"},
    "nndiff.prediction": {"correction": "nndiff_example.prediction:Correction"},
    "nndiff.loss": {"huber": "nndiff_example.loss:Huber"},
    "nndiff.objective": {"charted": "nndiff_example.objective:Charted"},
    "nndiff.start": {"smooth": "nndiff_example.start:Smooth"},
    "nndiff.times": {"squares": "nndiff_example.times:Squares"},
    "nndiff.rule": {"euler": "nndiff_example.rule:Euler"},
    "nndiff.layer": {"mirrors": "nndiff_example.layer:Mirrors"},
    "nndiff.cache": {"answers": "nndiff_example.cache:Answers"},
    "nndiff.guide": {"within": "nndiff_example.guide:Within"},
    "nndiff.metric": {"P95_error": "nndiff_example.metric:P95_ERROR"},
    "nndiff.kind": {"us": "nndiff_example.kind:ULTRASOUND"},
}
