// reshape: the numbers of a row in another shape. It moves none of them, so it has no passes, no
// kernel and no entry in the registry: plan/network.cpp lets its output be the same value as its
// input, seen in the new shape by the layers that read it. Only rows are never mixed.
#pragma once
