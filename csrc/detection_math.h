// All arithmetic, written once, without torch, for host and device: one header a family of operators.
#pragma once

#include "math/anchor_kmeans.h"
#include "math/batch_norm.h"
#include "math/box.h"
#include "math/box_codes.h"
#include "math/box_iou.h"
#include "math/focal_loss.h"
#include "math/hard_negative_mining.h"
#include "math/match_anchors.h"
#include "math/max_pool_2x2.h"
#include "math/nms.h"
#include "math/resample.h"
#include "math/scalar.h"
#include "math/soft_nms.h"
#include "math/tree.h"
#include "math/yolo_decode.h"
