"""One hypervisor with three droplets, and a host outside on its uplink.

sudo /usr/bin/python3 topologies/one_hypervisor.py
sudo mn --custom topologies/one_hypervisor.py --topo one_hypervisor --controller remote,port=6653
"""

from __future__ import annotations

import sys
from pathlib import Path

# `mn --custom` runs this text without a __file__ and without its folder in the path.
sys.path.insert(0, str(Path(sys._getframe().f_code.co_filename).resolve().parent))

from common import CloudTopo, main, parser


class OneHypervisor(CloudTopo):
    def build(self) -> None:
        hypervisor = self.hypervisor(1, self.outside())
        self.droplet(1, hypervisor, "web")
        self.droplet(2, hypervisor, "web")
        self.droplet(3, hypervisor, "db")


topos = {"one_hypervisor": OneHypervisor}

if __name__ == "__main__":
    sys.exit(main(OneHypervisor(), parser(__doc__).parse_args()))
