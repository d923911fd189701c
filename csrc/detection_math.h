// All arithmetic on boxes, written once, without torch, for host and device: one header a family of operators.
#pragma once

#include "math/anchor_kmeans.h"
#include "math/box.h"
#include "math/box_codes.h"
#include "math/box_iou.h"
#include "math/focal_loss.h"
#include "math/match_anchors.h"
#include "math/nms.h"
#include "math/scalar.h"
#include "math/soft_nms.h"
#include "math/yolo_decode.h"
