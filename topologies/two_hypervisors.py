"""Two hypervisors with two droplets each, joined by a plain switch, and a host outside.

sudo /usr/bin/python3 topologies/two_hypervisors.py
sudo mn --custom topologies/two_hypervisors.py --topo two_hypervisors --controller remote,port=6653
"""

from __future__ import annotations

import sys
from pathlib import Path

# `mn --custom` runs this text without a __file__ and without its folder in the path.
sys.path.insert(0, str(Path(sys._getframe().f_code.co_filename).resolve().parent))

from common import CloudTopo, main, parser


class TwoHypervisors(CloudTopo):
    def build(self) -> None:
        fabric = self.fabric()
        self.addLink(self.outside(), fabric)
        first, second = self.hypervisor(1, fabric), self.hypervisor(2, fabric)
        self.droplet(1, first, "web")
        self.droplet(2, first, "db")
        self.droplet(3, second, "web")
        self.droplet(4, second, "db")


topos = {"two_hypervisors": TwoHypervisors}

if __name__ == "__main__":
    sys.exit(main(TwoHypervisors(), parser(__doc__).parse_args()))
