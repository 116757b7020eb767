from pipeline.refinement import RefinementRecord, refine_files


def test_the_file_holds_the_record(case):
    request = case.request()
    record = refine_files(request)
    written = RefinementRecord.model_validate_json(request.outputs.record.read_bytes())
    assert written == record
    assert written.memory_gb > 0
    assert {"trivox", "torch", "numpy"} <= set(written.versions)
