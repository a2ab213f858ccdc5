"""What nvidia-smi says on other people's machines, old and new, whole and broken.

About half of the banners are retyped and shortened from public bug reports; the others, and most rows of the query, are
filled in after them in the same format.

Each machine: the exit code and the output of plain `nvidia-smi`, and the rows of `--query-gpu=name,driver_version,
compute_cap` (None: this nvidia-smi does not know the field, and says so with code 2).
"""

from __future__ import annotations

from dataclasses import dataclass

RULE = "+-----------------------------------------------------------------------------------------+\n"


def banner(smi: str, driver: str, cuda: str, *cards: str, new: bool = False) -> str:
    """The table of nvidia-smi: `new` as drivers from 610 on print it."""
    if new:
        line = f"| NVIDIA-SMI {smi:<22} KMD Version: {driver:<13} CUDA UMD Version: {cuda:<8} |\n"
    else:
        line = f"| NVIDIA-SMI {smi:<22} Driver Version: {driver:<14} CUDA Version: {cuda:<8} |\n"
    rows = "".join(
        f"|   {n}  {card[:24]:<27} Off |   00000000:0{n + 1}:00.0  On |        N/A |\n"
        for n, card in enumerate(cards)
    )
    return f"Wed Sep 30 21:53:38 2026       \n{RULE}{line}{RULE}{rows}{RULE}"


@dataclass(frozen=True)
class Machine:
    banner: str
    rows: tuple[str, ...] | None = ()
    code: int | None = 0
    linux: str = "cpu"  # the build that is right there, and on Windows
    windows: str = "cpu"
    short: str = ""  # the row without the capability
    says: str = ""  # in the reason or the advice

    def ask(self, *options: str) -> tuple[int | None, str]:
        """As `torch_build.read` asks."""
        if not options or self.code != 0:
            return self.code, self.banner
        fields = options[0].partition("=")[2].split(",")
        if self.rows is None:
            if "compute_cap" in fields:
                return 2, 'Field "compute_cap" is not a valid field to query.\n\n'
            return 0, f"{self.short}\n"
        return 0, "".join(f"{row}\n" for row in self.rows)


def one(
    name: str, driver: str, capability: str, cuda: str, new: bool = False, smi: str = ""
) -> dict[str, object]:
    row = (f"{name}, {driver}, {capability}",)
    return {"banner": banner(smi or driver, driver, cuda, name, new=new), "rows": row}


MACHINES = {
    # drivers from 610 on
    "RTX 5070 laptop, Linux, 2026": Machine(
        **one("NVIDIA GeForce RTX 5070 Laptop GPU", "610.43.02", "12.0", "13.3", new=True),
        linux="cu130",
        windows="cu130",
    ),
    "RTX 4070, Windows, 2026": Machine(
        **one("NVIDIA GeForce RTX 4070", "610.47", "8.9", "13.3", new=True), linux="cu130", windows="cu130"
    ),
    "GTX 1650, Linux, 2026": Machine(
        **one("NVIDIA GeForce GTX 1650", "610.57.04", "7.5", "13.3", new=True), linux="cu130", windows="cu130"
    ),
    "B200 twice, Linux, 2026": Machine(
        banner("610.43.02", "610.43.02", "13.3", "NVIDIA B200", "NVIDIA B200", new=True),
        ("NVIDIA B200, 610.43.02, 10.0",) * 2,
        linux="cu130",
        windows="cu130",
    ),
    "MIG, H100": Machine(
        banner("615.71.09", "615.71.09", "13.4", "NVIDIA H100 80GB HBM3", new=True)
        + "| MIG devices:                                    |\n|  0    7   0   0  |   16MiB /  9856MiB |\n",
        ("NVIDIA H100 80GB HBM3, 615.71.09, 9.0",),
        linux="cu130",
        windows="cu130",
    ),
    "DGX Spark": Machine(
        **one("NVIDIA GB10", "610.43.02", "12.1", "13.3", new=True), linux="cu130", windows="cu130"
    ),
    "B300": Machine(
        **one("NVIDIA B300 SXM6 AC", "590.44.01", "10.3", "13.1"), linux="cu130", windows="cu130"
    ),
    # older ones
    "RTX 4090, driver 580": Machine(
        **one("NVIDIA GeForce RTX 4090", "580.105.08", "8.9", "13.0"), linux="cu130", windows="cu130"
    ),
    "GTX 1080 Ti, driver 580, its last": Machine(
        **one("NVIDIA GeForce GTX 1080 Ti", "580.105.08", "6.1", "13.0"), linux="cu126", windows="cu126"
    ),
    "RTX 4070 laptop, driver 570": Machine(
        **one("NVIDIA GeForce RTX 4070 Laptop GPU", "570.133.07", "8.9", "12.8"),
        linux="cu126",
        windows="cu126",
    ),
    "Titan V and RTX 5880": Machine(  # the build of CUDA 13 has no kernels for 7.0, and this driver does not run it
        banner("570.86.15", "570.86.15", "12.8", "NVIDIA TITAN V", "NVIDIA RTX 5880 Ada Generation"),
        ("NVIDIA TITAN V, 570.86.15, 7.0", "NVIDIA RTX 5880 Ada Generation, 570.86.15, 8.9"),
        linux="cu126",
        windows="cu126",
        says="NVIDIA RTX 5880 Ada Generation (8.9)",
    ),
    "GTX 1060 3GB, Windows, driver 536": Machine(
        **one("NVIDIA GeForce GTX 1060 3GB", "536.40", "6.1", "12.2"), linux="cu126", windows="cu126"
    ),
    "Quadro RTX 4000, driver 535": Machine(
        **one("Quadro RTX 4000", "535.129.03", "7.5", "12.2"), linux="cu126", windows="cu126"
    ),
    "RTX 5090, driver 572": Machine(  # only the build of CUDA 13 has kernels for it
        **one("NVIDIA GeForce RTX 5090", "572.16", "12.0", "12.8"),
        says="Update NVIDIA's driver to 580 or newer",
    ),
    "RTX 3070, driver 470": Machine(  # which does not know the field
        banner("470.182.03", "470.182.03", "11.4", "NVIDIA GeForce RTX 3070"),
        None,
        short="NVIDIA GeForce RTX 3070, 470.182.03",
        says="driver 470.182.03 is too old for NVIDIA GeForce RTX 3070",
    ),
    "RTX 2080 Ti twice, Windows, driver 517": Machine(
        banner("517.48", "517.48", "11.7", "NVIDIA GeForce ...", "NVIDIA GeForce ..."),
        ("NVIDIA GeForce RTX 2080 Ti, 517.48, 7.5",) * 2,
        says="517.48 is too old",
    ),
    "GTX 780": Machine(
        **one("NVIDIA GeForce GTX 780", "470.256.02", "3.5", "11.4"),
        says="torch has no kernels for NVIDIA GeForce GTX 780 (3.5)",
    ),
    "driver 528.02, between the two systems' first": Machine(
        **one("NVIDIA GeForce RTX 3060", "528.02", "8.6", "11.9"), linux="cu126", windows="cpu"
    ),
    "a data centre's driver 535 with cuda-compat 13": Machine(
        **one("NVIDIA A100-SXM4-80GB", "535.183.01", "8.0", "13.0"), linux="cu130", windows="cu130"
    ),
    # several
    "RTX 5090 beside GTX 1080, driver 580": Machine(
        banner("580.95.05", "580.95.05", "13.0", "NVIDIA GeForce GTX 1080", "NVIDIA GeForce RTX 5090"),
        ("NVIDIA GeForce GTX 1080, 580.95.05, 6.1", "NVIDIA GeForce RTX 5090, 580.95.05, 12.0"),
        linux="cu130",
        windows="cu130",
        says="not for NVIDIA GeForce GTX 1080 (6.1)",
    ),
    "RTX 5090 beside RTX 3080, driver 575": Machine(  # the older one can be used now, the newer after an update
        banner("575.64.03", "575.64.03", "12.9", "NVIDIA GeForce RTX 3080", "NVIDIA GeForce RTX 5090"),
        ("NVIDIA GeForce RTX 3080, 575.64.03, 8.6", "NVIDIA GeForce RTX 5090, 575.64.03, 12.0"),
        linux="cu126",
        windows="cu126",
        says="Update NVIDIA's driver to 580 or newer for NVIDIA GeForce RTX 5090",
    ),
    # WSL
    "WSL, Quadro RTX 4000": Machine(
        **one("Quadro RTX 4000", "527.27", "7.5", "12.0", smi="525.60.07"), linux="cu126", windows="cu126"
    ),
    "WSL, RTX 3060, CUDA Version: ERR!": Machine(
        **one("NVIDIA GeForce RTX 3060 Laptop GPU", "546.80", "8.6", "ERR!", smi="545.46"),
        linux="cu126",
        windows="cu126",
    ),
    "WSL, blocked": Machine(
        "Failed to initialize NVML: GPU access blocked by the operating system\n"
        "Failed to properly shut down NVML: GPU access blocked by the operating system\n",
        code=17,
        says='nvidia-smi says "Failed to initialize NVML: GPU access blocked',
    ),
    # odd
    "a capability that is not told": Machine(
        **one("NVIDIA RTX A2000", "580.105.08", "[N/A]", "13.0"), linux="cu130", windows="cu130"
    ),
    "a snap whose nvidia-smi is older than the driver": Machine(
        banner("525.60.13", "570.133.07", "12.8", "NVIDIA GeForce RTX 4070"),
        None,
        short="NVIDIA GeForce RTX 4070, 570.133.07",
        linux="cu126",
        windows="cu126",
    ),
    # broken and absent
    "updated without a restart": Machine(
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.195\n",
        code=18,
        says="Restart the computer until nvidia-smi lists the card",
    ),
    "no kernel module": Machine(
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA"
        " driver is installed and running.\n\n",
        code=9,
        says="Mend NVIDIA's driver",
    ),
    "a container without the card": Machine(
        "Failed to initialize NVML: Unknown Error\n", code=255, says="Unknown Error"
    ),
    "a library that is gone": Machine(
        "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display"
        " Driver is properly installed and present in your system.\n",
        code=12,
        says="couldn't find libnvidia-ml.so",
    ),
    "a card that is switched off": Machine(
        "No devices were found\n", code=6, says="no NVIDIA card was found"
    ),
    "it hangs": Machine("", code=None, says="did not answer within"),
    "it says nothing": Machine("", code=1, says="nvidia-smi ended with 1"),
}
