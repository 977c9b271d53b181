"""N hosts at one Linux bridge, by Mininet. It says what it took in a line of
JSON when the network stands, waits for the end of its input, stops the network
and says what that took."""

import json
import shutil
import sys
import time

from mininet.log import setLogLevel
from mininet.net import Mininet
from mininet.nodelib import LinuxBridge
from mininet.topo import Topo


class Star(Topo):
    def build(self, n):
        switch = self.addSwitch("s1")
        for i in range(n):
            ip = "10.0.%d.%d/16" % divmod(i + 1, 256)
            self.addLink(self.addHost("h%d" % (i + 1), ip=ip, defaultRoute="via 10.0.255.254"), switch)


class Bridge(LinuxBridge):
    """A Linux bridge with an address. Mininet asks for brctl; where bridge-utils
    is not installed, iproute2 does the same, one command for one."""

    brctl = shutil.which("brctl")

    @classmethod
    def setup(cls):
        pass  # looks for brctl, and warns about firewalls

    def start(self, controllers):
        if self.brctl:
            super().start(controllers)
        else:
            self.cmd("ip link add", self, "type bridge")
            for intf in self.intfList():
                if self.name in intf.name:
                    self.cmd("ip link set", intf, "master", self)
            self.cmd("ifconfig", self, "up")
        self.cmd("ifconfig", self, "10.0.255.254/16")

    def stop(self, deleteIntfs=True):
        if self.brctl:
            super().stop(deleteIntfs)
            return
        self.cmd("ifconfig", self, "down")
        self.cmd("ip link del", self)
        super(LinuxBridge, self).stop(deleteIntfs)


def say(**what):
    print(json.dumps(what), flush=True)


setLogLevel("error")
began = time.monotonic()
net = Mininet(topo=Star(n=int(sys.argv[1])), switch=Bridge, controller=None)
net.start()
say(seconds=time.monotonic() - began, pids=[host.pid for host in net.hosts])

sys.stdin.read()
began = time.monotonic()
net.stop()
say(seconds=time.monotonic() - began)
