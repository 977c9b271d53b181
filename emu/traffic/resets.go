package traffic

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// estabResets reads how many established TCP connections were reset, from a
// file in the form of /proc/net/snmp: a line of names and one of values.
func estabResets(path string) (uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names {
			if name == "EstabResets" && i < len(fields) {
				return strconv.ParseUint(fields[i], 10, 64)
			}
		}
	}
	return 0, fmt.Errorf("%s has no Tcp EstabResets", path)
}
