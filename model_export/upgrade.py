"""`resnet-export upgrade`: rewrites an older model file's contract in the current schema."""

from __future__ import annotations

import json
import shutil
import sys

import onnx

from model_export.describe import describe_tolerances
from model_export.errors import OptionsError
from model_export.external_data import files_of
from model_export.model_file import attach_contract, parse_graph
from model_export.options import UpgradeOptions
from service.contract import METADATA_KEY, parse_contract, schema_of
from service.files import replacing


def upgrade_command(options: UpgradeOptions) -> None:
    """Upgrade as the options say, and print what changed.

    The graph is not changed, and weights in separate files stay there.

    Raises `service.errors.ModelFileError`, `OptionsError` or `OSError`; then nothing is written.
    """
    file, output = options.file, options.output or options.file
    model = parse_graph(file)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    contract = parse_contract(metadata, file=str(file))
    if output.resolve().parent != file.resolve().parent and (names := files_of(model)):
        raise OptionsError(
            f"{file}: its weights are in {', '.join(names)} in the same folder, so --output has to "
            "be in that folder too"
        )
    schema = schema_of(json.loads(metadata[METADATA_KEY]))
    if schema == contract.schema_version:
        same = output.resolve() == file.resolve()
        if not same:
            with replacing(output) as copy:
                shutil.copyfile(file, copy)
        done = "nothing to do" if same else f"{output} is a copy"
        sys.stdout.write(f"{file}: its contract already has schema {schema}; {done}\n")
        return
    attach_contract(model, contract)
    with replacing(output) as upgraded:
        onnx.save(model, upgraded)
    sys.stdout.write(
        f"{output}: its contract had schema {schema} and now has schema "
        f"{contract.schema_version}, with tolerances by provider and precision: "
        f"{describe_tolerances(contract)}, in {contract.precision}\n"
    )
