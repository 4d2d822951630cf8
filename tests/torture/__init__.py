"""The campaign of faults and bad input: `make torture`, or its short part in pytest.

`damage` spoils bytes and texts, `inputs` gives them to the readers and the command line,
`matrices` holds intervals to truths, `kills` ends and resumes real processes, `room` takes disk and
permissions away. Each trial is accepted, refused with one line, or a fault; `campaign` counts.
"""
