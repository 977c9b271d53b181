"""The bench that links are measured on, by Mininet: src, near and far1, and a
TCLink from near to far1. It says the processes of the nodes in a line of JSON,
then sets the link to what each line that it reads says, and answers each."""

import json
import sys

from mininet.link import TCIntf
from mininet.log import setLogLevel
from mininet.net import Mininet

setLogLevel("error")
net = Mininet(controller=None, build=False)
src, near, far = [net.addHost(name, ip=None) for name in ("src", "near", "far1")]
net.addLink(src, near, intfName1="eth0", intfName2="eth0")
net.addLink(near, far, intfName1="eth1", intfName2="eth0", cls1=TCIntf)
net.build()
src.setIP("10.9.0.2", 30, intf="eth0")
near.setIP("10.9.0.1", 30, intf="eth0")
near.setIP("10.9.1.1", 30, intf="eth1")
far.setIP("10.9.1.2", 30, intf="eth0")
src.cmd("ip route add 10.9.0.0/16 via 10.9.0.1")
far.cmd("ip route add 10.9.0.0/16 via 10.9.1.1")
near.cmd("sysctl -w net.ipv4.ip_forward=1")
print(json.dumps({"pids": {h.name: h.pid for h in net.hosts}}), flush=True)

for line in sys.stdin:
    result = near.intf("eth1").config(**json.loads(line))
    said = [text.strip() for text in result["tcoutputs"] if text.strip()]
    print(json.dumps({"said": said}), flush=True)

net.stop()
