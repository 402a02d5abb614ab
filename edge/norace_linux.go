//go:build !race

package edge

func received(uintptr) {}

func sending(uintptr) {}
