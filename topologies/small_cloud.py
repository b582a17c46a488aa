"""Some hypervisors with some droplets each, joined by a plain switch, and a host outside.

sudo /usr/bin/python3 topologies/small_cloud.py --hypervisors 4 --droplets 5
sudo mn --custom topologies/small_cloud.py --topo small_cloud,hypervisors=4,droplets=5 --controller remote,port=6653
"""

from __future__ import annotations

import sys
from pathlib import Path

# `mn --custom` runs this text without a __file__ and without its folder in the path.
sys.path.insert(0, str(Path(sys._getframe().f_code.co_filename).resolve().parent))

from common import CloudTopo, main, parser

ROLES = ("web", "db", "cache")


class SmallCloud(CloudTopo):
    def build(self, hypervisors: int = 3, droplets: int = 3) -> None:
        fabric = self.fabric()
        self.addLink(self.outside(), fabric)
        for number in range(hypervisors):
            hypervisor = self.hypervisor(number + 1, fabric)
            for i in range(droplets):
                self.droplet(number * droplets + i + 1, hypervisor, ROLES[i % len(ROLES)])


topos = {"small_cloud": SmallCloud}

if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--hypervisors", type=int, default=3)
    options.add_argument("--droplets", type=int, default=3, help="on each hypervisor")
    chosen = options.parse_args()
    if chosen.hypervisors < 1 or chosen.droplets < 1 or chosen.hypervisors * chosen.droplets < 2:
        options.error("at least two droplets are needed for anything to be seen")
    sys.exit(main(SmallCloud(hypervisors=chosen.hypervisors, droplets=chosen.droplets), chosen))
