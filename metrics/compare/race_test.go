//go:build race

package compare

// raceDetector makes simulations short: it is slow, and they have no races.
const raceDetector = true
