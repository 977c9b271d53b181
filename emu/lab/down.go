package lab

import "sync"

var downs sync.Map

// down tells whether a fault keeps a node down.
func (l *Lab) down(node string) bool {
	_, is := downs.Load(node)
	return is
}
