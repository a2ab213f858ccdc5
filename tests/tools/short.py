"""What takes longer than all the rest of a tiny job, and how few of it tests make do with."""

SHORT = (  # module, name, value
    ("backend.results.deliver", "TURNTABLE_VIEWS", 3),  # 36
    ("backend.results.deliver_refined", "TURNTABLE_VIEWS", 3),
    ("backend.jobs.recorder", "SHEET", (8, 32)),  # 192 pixels
    ("backend.stages.chain", "THRESHOLD_VIEWS", 8),  # 24
    ("backend.scene.scene", "SETTLE_PASSES", 1),  # 4
)
