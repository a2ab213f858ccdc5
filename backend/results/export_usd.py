"""USD and USDZ files by usd-core, which is installed by whoever wants them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from backend.errors import InputError
from backend.files import disk_errors
from backend.meshes.write import ROUGHNESS
from dreamflow_blender.contract.meshfile import MeshArrays

PACKAGE = "usd-core==26.11"


def check_usd_core() -> None:
    """Raises InputError where it is not installed."""
    try:
        import pxr  # noqa: F401  the package's own name for it
    except ImportError as error:
        raise InputError(
            "USD and USDZ are written by usd-core, which is not installed.",
            f"Install it with .venv/bin/python -m ensurepip and .venv/bin/python -m pip install {PACKAGE}"
            " (Windows: .venv\\Scripts\\python), or choose another format.",
        ) from error


def usd_files(mesh: MeshArrays, png: bytes, name: str, packed: bool) -> dict[str, bytes]:
    """One mesh, y up, in metres, with a UsdPreviewSurface; raises InputError without usd-core, DiskError.

    name    a job's slug, which names the files
    packed  one USDZ that holds the texture; else a binary USD with the texture beside it
    """
    check_usd_core()
    from pxr import Gf, Sdf, Usd, UsdGeom, UsdShade, UsdUtils, Vt

    with disk_errors(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="dreamflow-") as place:
        layer, texture = Path(place, f"{name}.usdc"), Path(place, f"{name}.png")
        texture.write_bytes(png)
        stage = Usd.Stage.CreateNew(str(layer))
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
        UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        root = UsdGeom.Xform.Define(stage, "/object")
        stage.SetDefaultPrim(root.GetPrim())
        shape = UsdGeom.Mesh.Define(stage, "/object/mesh")
        shape.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(mesh.v_pos)))
        shape.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(mesh.t_pos_idx), 3, np.int32)))
        shape.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(mesh.t_pos_idx.reshape(-1)))
        shape.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(mesh.normal)))
        shape.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
        shape.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
        low, high = mesh.v_pos.min(0), mesh.v_pos.max(0)
        shape.CreateExtentAttr([Gf.Vec3f(*low.tolist()), Gf.Vec3f(*high.tolist())])
        uv = UsdGeom.PrimvarsAPI(shape).CreatePrimvar(
            "st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.faceVarying
        )
        uv.Set(Vt.Vec2fArray.FromNumpy(np.ascontiguousarray(mesh.v_tex)))
        uv.SetIndices(Vt.IntArray.FromNumpy(mesh.t_tex_idx.reshape(-1)))

        material = UsdShade.Material.Define(stage, "/object/material")
        surface = UsdShade.Shader.Define(stage, "/object/material/surface")
        surface.CreateIdAttr("UsdPreviewSurface")
        surface.CreateInput("roughness", Sdf.ValueTypeNames.Float).Set(ROUGHNESS)
        surface.CreateInput("metallic", Sdf.ValueTypeNames.Float).Set(0.0)
        reader = UsdShade.Shader.Define(stage, "/object/material/uv")
        reader.CreateIdAttr("UsdPrimvarReader_float2")
        reader.CreateInput("varname", Sdf.ValueTypeNames.String).Set("st")
        image = UsdShade.Shader.Define(stage, "/object/material/albedo")
        image.CreateIdAttr("UsdUVTexture")
        image.CreateInput("file", Sdf.ValueTypeNames.Asset).Set(f"./{texture.name}")
        image.CreateInput("sourceColorSpace", Sdf.ValueTypeNames.Token).Set("sRGB")
        image.CreateInput("st", Sdf.ValueTypeNames.Float2).ConnectToSource(
            reader.CreateOutput("result", Sdf.ValueTypeNames.Float2)
        )
        surface.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f).ConnectToSource(
            image.CreateOutput("rgb", Sdf.ValueTypeNames.Float3)
        )
        material.CreateSurfaceOutput().ConnectToSource(
            surface.CreateOutput("surface", Sdf.ValueTypeNames.Token)
        )
        UsdShade.MaterialBindingAPI.Apply(shape.GetPrim()).Bind(material)
        stage.GetRootLayer().Save()
        if not packed:
            return {f"{name}.usd": layer.read_bytes(), texture.name: png}
        package = Path(place, "package.usdz")
        if not UsdUtils.CreateNewUsdzPackage(Sdf.AssetPath(str(layer)), str(package)):
            raise InputError("usd-core could not make the USDZ.", "Choose another format.")
        return {f"{name}.usdz": package.read_bytes()}
