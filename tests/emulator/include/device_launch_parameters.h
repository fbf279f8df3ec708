// Everything of it that kernels use comes with cuda_on_host.h.
#pragma once
#include "cuda_on_host.h"
